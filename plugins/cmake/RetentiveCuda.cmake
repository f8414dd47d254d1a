# Enables CUDA for the SM versions of RETENTIVE_SM_LIST that the toolkit's nvcc knows. A CMAKE_CUDA_ARCHITECTURES that the
# user set is taken as it is.
if(NOT CMAKE_CUDA_COMPILER)
    find_program(CMAKE_CUDA_COMPILER nvcc HINTS ENV CUDACXX ENV CUDA_PATH PATHS /usr/local/cuda PATH_SUFFIXES bin)
endif()
if(NOT CMAKE_CUDA_COMPILER)
    message(FATAL_ERROR "nvcc was not found. Install a CUDA toolkit (12.6 or later), or say where it is with "
                        "-DCMAKE_CUDA_COMPILER=/path/to/nvcc, or build the CPU reference alone with "
                        "-DRETENTIVE_CUDA=OFF (preset 'reference').")
endif()

if(NOT CMAKE_CUDA_ARCHITECTURES)
    execute_process(COMMAND ${CMAKE_CUDA_COMPILER} --list-gpu-code OUTPUT_VARIABLE codes COMMAND_ERROR_IS_FATAL ANY)
    set(known)
    foreach(sm IN LISTS RETENTIVE_SM_LIST)
        if(codes MATCHES "sm_${sm}[^0-9a-z]")
            list(APPEND known ${sm})
        else()
            message(STATUS "SM ${sm} left out: ${CMAKE_CUDA_COMPILER} does not know it")
        endif()
    endforeach()
    if(NOT known)
        message(FATAL_ERROR "RETENTIVE_SM_LIST is '${RETENTIVE_SM_LIST}', and ${CMAKE_CUDA_COMPILER} knows none of "
                            "these. It knows:\n${codes}")
    endif()
    # Machine code for each, and PTX of the newest alone for GPUs that come later.
    list(POP_BACK known newest)
    list(TRANSFORM known APPEND -real)
    set(CMAKE_CUDA_ARCHITECTURES ${known} ${newest})
endif()
message(STATUS "CUDA architectures: ${CMAKE_CUDA_ARCHITECTURES}")

enable_language(CUDA)
find_package(CUDAToolkit REQUIRED)
set(CMAKE_CUDA_STANDARD 17)
set(CMAKE_CUDA_STANDARD_REQUIRED ON)
set(CMAKE_CUDA_EXTENSIONS OFF)
set(CMAKE_CUDA_VISIBILITY_PRESET hidden)
set(CMAKE_CUDA_RUNTIME_LIBRARY Static)
add_compile_options("$<$<COMPILE_LANGUAGE:CUDA>:SHELL:-Werror all-warnings>"
                    "$<$<COMPILE_LANGUAGE:CUDA>:SHELL:-Xcompiler -Wall,-Wextra,-Werror>")
